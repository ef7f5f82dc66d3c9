"""Masks: which keys a query sees. One file each, named after what it makes."""
