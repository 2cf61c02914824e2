"""What can be read off the stream by straight lines, beside controls, on rows that nobody learned from."""
