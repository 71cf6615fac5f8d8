"""What can be set: the types of all settings, how they are composed, and checks of what is typed."""
