"""Nouns of the field, without behaviour: what is passed between the rooms."""
