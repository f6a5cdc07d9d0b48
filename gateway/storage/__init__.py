"""What outlives a restart and can be asked questions: SQLite by default, PostgreSQL by URL."""
