"""Makes SFT records: samples, judges, filters and rewrites them, and collects them into one file."""
