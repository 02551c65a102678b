#!/bin/sh
# Debian's Apache with a private key of one of these kinds:
#   with-apache pem                  a file, as everywhere
#   with-apache softhsm|trustvisor   a PKCS#11 token, through OpenSSL's engine
# Makes key and certificate if they are not there (they stay in /etc/with-apache/KIND), and starts Apache with them instead of what runs.
# `with-apache stop` stops it. The user's PIN of each token is 1234.
set -eu
kind=${1:?what kind of key}
folder=/etc/with-apache/$kind
pin=1234

fail() { echo "with-apache: $*" >&2; exit 1; }

stop() {
    [ -e /run/apache2/apache2.pid ] || return 0
    apachectl stop
    for _ in $(seq 300); do
        [ -e /run/apache2/apache2.pid ] || return 0
        sleep 0.1
    done
    fail "Apache does not stop"
}

# For engine and module, by OPENSSL_CONF.
configure_openssl() {
    cat >openssl.cnf <<END
openssl_conf = configuration
[configuration]
engines = engines
[engines]
pkcs11 = engine
[engine]
engine_id = pkcs11
MODULE_PATH = $module
init = 0
[req]
distinguished_name = name
[name]
END
}

make_token() {
    case $kind in
    softhsm)
        softhsm2-util --init-token --free --label "$kind" --so-pin 5678 --pin $pin
        make_key
        # Apache's children use it (their user is of this group), after Apache has logged in as root.
        chgrp -R softhsm /var/lib/softhsm/tokens
        chmod -R g+rwX /var/lib/softhsm/tokens
        ;;
    trustvisor)
        pkcs11-tool --module "$module" --init-token --label "$kind" --so-pin 5678
        pkcs11-tool --module "$module" --token-label "$kind" --login --login-type so --so-pin 5678 --init-pin --new-pin $pin
        make_key
        ;;
    esac
}

make_key() {
    pkcs11-tool --module "$module" --token-label "$kind" --login --pin $pin \
        --keypairgen --key-type rsa:2048 --label web --id 01
}

# With what `openssl req` calls the key.
make_certificate() {
    openssl req -new -x509 -sha256 -days 365 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
        "$@" -out certificate.new
    mv certificate.new certificate
}

configure_apache() {
    cat >/etc/apache2/sites-enabled/with-apache.conf <<END
ServerName localhost
<VirtualHost *:443>
    DocumentRoot /var/www/html
    SSLEngine on
    SSLCertificateFile $folder/certificate
    SSLCertificateKeyFile "$key"
</VirtualHost>
END
    echo "served by Apache, key: $kind" >/var/www/html/index.html
}

stop
case $kind in
stop) exit ;;
pem) key=$folder/key ;;
softhsm) module=/usr/lib/softhsm/libsofthsm2.so ;;
trustvisor) module=/usr/local/lib/libtrustvisor_pkcs11.so ;;
*) fail "no such kind: $kind" ;;
esac
mkdir -p "$folder"
cd "$folder"
if [ "$kind" != pem ]; then
    [ -e "$module" ] || fail "$module is not there"
    key="pkcs11:token=$kind;object=web;type=private?pin-value=$pin"
    configure_openssl
    export OPENSSL_CONF=$folder/openssl.cnf
fi
if [ ! -e certificate ]; then
    if [ "$kind" = pem ]; then
        make_certificate -newkey rsa:2048 -noenc -keyout key
    else
        make_token
        make_certificate -engine pkcs11 -keyform engine -key "$key"
    fi
fi
configure_apache
apachectl start
