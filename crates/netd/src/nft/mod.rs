//! nftables as values: expressions, tables, and the difference between two tables.

pub mod expression;
pub mod frame;
pub mod table;
