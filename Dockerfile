# The image of Culvert: two static programs, and nothing else.
#
#   make image              from programs built on this machine; asks no registry for anything
#   docker build -t culvert .   builds the programs in a container as well; needs the image `rust`
#
# The stage for local programs stands first, because builders without BuildKit go through every
# stage before the one that is asked for.

FROM scratch AS local
# The build context is a directory with just the two.
COPY culvert culvert-cni /bin/
ENTRYPOINT ["/bin/culvert"]

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# Static, as `make dist` does it: the image has no C library to share.
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked \
        --target "$(rustc -vV | sed -n 's/^host: //p')" --no-default-features --features databases \
        -p culvert -p culvert-cni \
    && mkdir /image && cd target/*/release \
    && for program in culvert culvert-cni; do strip -o "/image/$program" "$program"; done

FROM scratch AS image
COPY --from=build /image/culvert /image/culvert-cni /bin/
ENTRYPOINT ["/bin/culvert"]
