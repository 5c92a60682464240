"""The Django app "messaging": tables, rules, facts."""
