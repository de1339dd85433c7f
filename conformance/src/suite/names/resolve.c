/* Resolves each name by the C library that it is linked with, and connects at once. In: lines of a name and 4 or 6.
   Out: a line for each. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    char name[256];
    int version;
    while (scanf("%255s %d", name, &version) == 2) {
        struct addrinfo hints = {.ai_family = version == 6 ? AF_INET6 : AF_INET, .ai_socktype = SOCK_STREAM}, *found;
        int code = getaddrinfo(name, "8080", &hints, &found);
        if (code != 0) {
            printf("no address: %s\n", gai_strerror(code));
            continue;
        }
        int stream = socket(found->ai_family, SOCK_STREAM, 0);
        int done = stream < 0 ? -1 : connect(stream, found->ai_addr, found->ai_addrlen);
        puts(done == 0 ? "connected" : errno == EPERM ? "EPERM" : strerror(errno));
        close(stream);
        freeaddrinfo(found);
    }
    return 0;
}
