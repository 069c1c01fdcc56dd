"""Facts about a data set, rendered for the terminal and as a page."""
