/* A client of libssl: client ADDRESS HOST PREFIX COUNT [MILLISECONDS]. One connection; GET and POST take turns, with a pause
   after each. */
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail(const char *what) {
    fprintf(stderr, "client: %s\n", what);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc < 5) fail("usage: client ADDRESS HOST PREFIX COUNT [MILLISECONDS]");
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(443)};
    if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) fail("address");
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context || !SSL_CTX_load_verify_locations(context, "/etc/ca.pem", NULL)) fail("ca.pem");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL *ssl = SSL_new(context);
    if (!ssl || !SSL_set_tlsext_host_name(ssl, argv[2]) || !SSL_set1_host(ssl, argv[2])) fail("name");
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1) fail("handshake");
    for (int number = 0; number < atoi(argv[4]); number++) {
        char text[1024];
        int length = snprintf(text, sizeof text, "%s %s/%d HTTP/1.1\r\nHost: %s\r\n%s\r\n%s",
                              number % 2 ? "POST" : "GET", argv[3], number, argv[2],
                              number % 2 ? "Content-Length: 1\r\n" : "", number % 2 ? "x" : "");
        if (SSL_write(ssl, text, length) != length) fail("write");
        int got = 0;
        do {
            int more = SSL_read(ssl, text + got, sizeof text - 1 - got);
            if (more <= 0) fail("read");
            got += more;
            text[got] = 0;
        } while (!strstr(text, "\r\n\r\nok\n"));
        if (strncmp(text, "HTTP/1.1 200 ", 13)) fail("status");
        if (argc > 5) usleep(1000 * atoi(argv[5]));
    }
    return 0;
}
