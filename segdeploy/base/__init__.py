"""What everything stands on: errors, files, progress, records, versions."""
