"""Why something is not where it should be: findings for users, read from a picture and changing nothing."""
