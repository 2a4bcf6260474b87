//! ghfe from outside: the production router over real sockets, on real Postgres.

mod bad_input;
mod bed;
mod capture;
mod deliveries;
mod outages;
mod pages;
mod staging;
