"""From bytes to RGB pixels: headers, limits of memory and time, and a decoder for each format."""
