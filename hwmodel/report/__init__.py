"""What a placement costs, said to people: tables, files, pictures."""
