"""What is counted and measured of answers, attention and memory."""
