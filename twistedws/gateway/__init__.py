"""What turns a user's application, of whatever kind, into ours."""
