"""The description of the HTTP interface as an OpenAPI document, for programs and for the page `/docs`."""
