"""The verbs of the command line, a file for a group of them. Each is thin: it calls one function of a lower room."""
