"""Byzantine agreement of the monitors on evidence and on what follows from it. See README.md here."""
