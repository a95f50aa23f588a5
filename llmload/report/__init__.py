"""What people and CI systems read of a run: terminal, Markdown, JUnit, HTML."""
