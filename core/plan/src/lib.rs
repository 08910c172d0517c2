//! From an attachment to its tables, and from two tables to their difference.
