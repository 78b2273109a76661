"""How results are written for people: tables, percentages, shortened texts, charts, card front matter."""
