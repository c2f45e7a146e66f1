//! What must be there before anybody comes: upstream's bootstrap objects.
