"""What a run leaves behind, as data: its folder, its requests as a table, its summary."""
