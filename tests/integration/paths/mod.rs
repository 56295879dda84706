//! What may be named as IMAGE, OUTPUT or address.

mod addresses;
mod devices;
mod rows;
mod table;
mod world;
