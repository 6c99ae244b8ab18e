"""Drivers: what runs tasks."""
