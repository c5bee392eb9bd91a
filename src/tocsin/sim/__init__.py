"""Synthetic worlds: labelled fleets and lying monitors, deterministic by seed."""
