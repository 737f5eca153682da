"""The command line: the commands, their options, what they show, and errors as exit codes."""
