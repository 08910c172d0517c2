//! What tests share: throw-away namespaces, waiting on conditions.
