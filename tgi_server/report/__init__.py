"""The report of a sweep as a page, as Markdown and in pictures, and its winner as a file."""
