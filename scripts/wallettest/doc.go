// Package wallettest has real wallets' code sign what keytree prepares: libauth, which
// Cashonize and Paytaca sign with, run by Node. It holds nothing but that test. npm ci
// installs what package-lock.json pins.
package wallettest
