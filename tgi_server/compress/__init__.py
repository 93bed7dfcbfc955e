"""`job=quantize`: a 4-bit (or 2, 3, 8-bit) checkpoint made of a float one, block by block."""
