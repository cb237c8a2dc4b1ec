"""What people look at: metrics, progress, tables and pictures."""
