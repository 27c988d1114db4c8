# jobber::jobber: the header jobber.hpp for programs that run as Jobber's jobs. C++17, and threads.
#
#   find_package(jobber REQUIRED)
#   target_link_libraries(resize PRIVATE jobber::jobber)

include(CMakeFindDependencyMacro)
find_dependency(Threads)

if(NOT TARGET jobber::jobber)
  get_filename_component(_jobber_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
  add_library(jobber::jobber INTERFACE IMPORTED)
  set_target_properties(jobber::jobber PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_jobber_prefix}/include"
    INTERFACE_COMPILE_FEATURES cxx_std_17
    INTERFACE_LINK_LIBRARIES Threads::Threads)
  unset(_jobber_prefix)
endif()
