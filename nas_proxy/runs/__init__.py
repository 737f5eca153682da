"""What a run or comparison is: its settings, and the folder that it is kept in."""
