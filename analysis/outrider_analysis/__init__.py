"""What both sides need to read a dump, a log or a number: bytes or text in, findings out."""
