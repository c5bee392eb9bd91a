"""The first five minutes: a fleet, a rogue agent, a lying monitor, a verdict that holds anyway."""
