"""robosuite's robots and controllers with the tasks of the tabletop."""
