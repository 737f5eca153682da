"""What a run found, for people: the HTML page, its figures, the words and the table in the terminal."""
