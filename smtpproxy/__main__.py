"""`python -m smtpproxy` is the `smtpproxy` command."""

from smtpproxy.cli import main

if __name__ == "__main__":
    main()
