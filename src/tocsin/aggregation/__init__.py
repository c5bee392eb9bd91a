"""Statistical aggregation: exact summaries climb region -> zone -> global, baselines come down."""
