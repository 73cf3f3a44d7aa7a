"""One run of train.py: its command line, folder and processes, and how it survives."""
