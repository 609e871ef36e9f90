"""The ladder of methods, its statistics, tables and figures."""
