"""Bytes in and out: every form in which something leaves or enters a process."""
