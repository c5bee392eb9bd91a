"""Signatures, hashes and proofs: who said what, checkable by a third party."""
