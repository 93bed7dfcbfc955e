"""What a configuration would do under a load, from what steps cost here: the scheduler without the clock."""
