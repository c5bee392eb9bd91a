"""What people and programs read: a small JSON interface, metrics, and a status page."""
