"""``python -m vae_anomaly`` is the command line ``vae-anomaly``; nothing else lives here."""

from vae_anomaly.cli.app import main

if __name__ == "__main__":
    main()
