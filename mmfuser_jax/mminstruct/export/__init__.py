"""The last step: items that passed become a data set that others can load, with a card that says where it comes from."""
