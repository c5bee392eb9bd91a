"""From batches of events to evidence: what each agent normally does, and how far from it an event is."""
