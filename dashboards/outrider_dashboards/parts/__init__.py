"""The parts of the page: each takes a picture and the viewer's time zone, and returns HTML or a chart."""
