"""What scheduled jobs need beside their steps: an end in time, and word of how they went."""
